"""What a run would do, need and cost, worked out before anything is loaded or rented."""
