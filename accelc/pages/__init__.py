"""Pages for people: one HTML file each, without scripts, that reads nothing from the network."""
