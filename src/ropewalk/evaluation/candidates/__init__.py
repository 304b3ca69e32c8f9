"""What is measured, each under one name: schedules, zones, position maps, caches, controls."""
