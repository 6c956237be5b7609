"""What is kept of an episode: a bag of everything that was published, and a video for people."""
