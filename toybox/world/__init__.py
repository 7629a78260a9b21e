"""The true world of the toybox: shapes, objects of named parts, captions, and pictures of them."""
