"""What each kind of run says, one file each: a pure function from a `RunView` to a `Content`."""
