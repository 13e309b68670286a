"""What knows neither models nor recipes."""
