"""The known ways to write a broken configuration: found, named, mended."""
