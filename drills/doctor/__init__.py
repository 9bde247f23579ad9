"""What stormgate needs on this machine, and whether it is there: `stormgate doctor`."""
