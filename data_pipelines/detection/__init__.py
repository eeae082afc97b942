"""Finding faces in pictures: the MTCNN detector, and folders of photographs."""
