"""The benchmarks of `molmoact-ros bench`, one file for each."""
