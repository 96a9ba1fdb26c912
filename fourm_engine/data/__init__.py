"""Data loading. In: samples in files or token shards. Out: batches of masked and packed samples. A `Store` lists
samples and loads one modality of one; `MaskedSamples` orders and masks them; `batches` collates a process's share."""
