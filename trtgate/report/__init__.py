"""What people read: the same records and verdicts as a terminal table, as Markdown and as JSON."""
