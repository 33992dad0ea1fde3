"""The demonstration: the laboratory's schemes side by side, shown in a terminal while they write."""
