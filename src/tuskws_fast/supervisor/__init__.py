"""The parent of all processes: listeners, memory, births and deaths. No loop, no thread."""
