"""What a configuration says, piece by piece: the text model inside it, its layers, its rotary entries, its scaling."""
