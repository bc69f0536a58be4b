"""What people read: the same records and decisions as a terminal table, as Markdown and as JSON."""
