"""From a folder of videos to batches of clips, and from clips to files."""
