"""What `make soak` does for as long as it is let: kills, damage, changing devices, mutations; it prints figures."""
