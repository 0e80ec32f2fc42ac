"""Knowledge: articles read from a source, cut into chunks, embedded, stored, searched and evaluated."""
