"""Many runs that belong together: sweeps over settings, and the ladder of algorithms."""
