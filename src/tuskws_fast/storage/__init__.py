"""What outlives every process: the journal of publications, and the settings. Nothing here knows rooms' rules."""
