"""What a run is asked to do: the recipe, its blocks, and how it is read from YAML. No torch in this sub-room."""
