"""From samples in files or arrays to masked and packed training samples. A `Store` knows which samples there are and
loads one modality of one; `MaskedSamples` orders and masks what it loads; `batches` collates a process's share."""
