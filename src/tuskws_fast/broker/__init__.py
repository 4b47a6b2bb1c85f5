"""The broker process: orders publications, owns rooms, presence and history."""
