"""Checks of a data set. In: raw data and tokens. Out: statistics, and findings, each with a remedy."""
