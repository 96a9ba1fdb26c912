"""What a data set holds and what is wrong with it. In: raw data and tokens. Out: statistics, and findings with a
remedy."""
