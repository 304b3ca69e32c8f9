"""Loss: how text is read (whole, in windows, cropped) and what the per-token losses come to."""
