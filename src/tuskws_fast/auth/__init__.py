"""Who is on the other side: tokens."""
