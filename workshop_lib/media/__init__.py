"""Videos, GIFs, contact sheets and plots that notebooks, command line and evaluation share."""
