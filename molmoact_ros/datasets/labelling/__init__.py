"""Labels of demonstrations: depth tokens and traces for each frame, their checks, and a page that shows them."""
