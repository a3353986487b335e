"""For the demonstration: a small web site and a stand-in for a Hub data set, both made on the spot."""
