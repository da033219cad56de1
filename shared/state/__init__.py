"""What a run leaves on disk, and how runs, exports and models are found again."""
