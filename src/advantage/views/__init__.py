"""What people look at: curves and comparisons, the report, the doctor, the ladder of a decision, exports."""
