"""How weights move: state, step, optimizer, loop, checkpoint."""
