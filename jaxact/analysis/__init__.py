"""What to measure on a network, by depth."""
