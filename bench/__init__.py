"""`make bench`: what dockyardd and, where it is installed, Debian's dockerd take for the same requests in one run."""
