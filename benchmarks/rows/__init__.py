"""What each row of the benchmark table measures, by theme."""
