"""Which tokens a rank reads, as a function of the sample's number alone."""
