"""Networks that are trained on true renders alone and judge pictures: of views, and of parts."""
