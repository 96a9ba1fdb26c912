"""Samples of files or arrays in, masked and packed training samples out. A `Store` says which samples there are and
loads one modality of one; `MaskedSamples` orders and masks what it loads; `batches` collates the share of a process."""
