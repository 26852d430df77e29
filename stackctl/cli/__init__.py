"""The front door: parse words, call one service function, render."""
