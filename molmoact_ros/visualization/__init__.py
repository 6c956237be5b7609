"""Pictures made for people: the plan drawn on the image, points in space, videos."""
