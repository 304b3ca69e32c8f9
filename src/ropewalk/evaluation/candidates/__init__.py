"""What is measured: a model changed in some way, each under one name. Schedules, zones, position maps, caches, controls."""
