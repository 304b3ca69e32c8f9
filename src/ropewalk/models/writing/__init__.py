"""A schedule written into a configuration: one rotary entry (`entries`), and the whole file around it (`carrier`)."""
