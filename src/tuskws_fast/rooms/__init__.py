"""What rooms, presence and limits decide. Pure: values and `now` in, values out."""
