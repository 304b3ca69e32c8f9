"""Writing past the window: a factor for each request, exact dynamic scaling, endless streams.

ladder      which factor serves how many tokens
session     one text behind one rung, read and continued; moved to the next rung where it grows
sampling    the next token
pieces      tokens as text, as they come
request     `ropewalk.generate`
stream      a text without end, with sinks and a recent window
"""
