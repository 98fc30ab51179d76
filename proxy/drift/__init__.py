"""What runs, held against what was approved: containers' images, the file list that verified layers give, a root filesystem.

Nothing here knows asyncio, the database or the network: layers come in as open files, what is found goes out as values.
"""
