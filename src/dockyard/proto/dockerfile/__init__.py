"""The Dockerfile language: text -> instructions -> checks -> a graph of what to do. Pure."""
