"""Where parameters come from: names to local files (`hub`), files to filled modules (`checkpoint`)."""
