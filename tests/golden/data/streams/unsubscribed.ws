{"type":"unsubscribed","operations":"*"}
