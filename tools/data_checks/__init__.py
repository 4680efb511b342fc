"""What `--check` looks at in the data.

image_headers   sizes and kinds of image files      moved_images   geometry that leaves masks and boxes behind
overlap   samples that two splits share
"""
