"""What becomes of a pod: reads a review, decides, says it as a patch."""
