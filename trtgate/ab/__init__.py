"""Two stacks raced against each other on one machine, round by round."""
