"""What samples are and how answers are compared: a file for each task."""
