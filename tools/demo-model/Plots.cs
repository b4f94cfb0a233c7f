namespace Native.Tools.DemoModel;

/// <summary>What can happen in the small world. Every plot has the hero, a friend and the thing, and leaves facts to
/// ask for.</summary>
internal sealed partial class Story
{
    private const string Happy = "{happy|glad|very happy|full of joy|so happy}", Sad = "{sad|unhappy|very sad}";

    private void Tell(string summary, string lesson) { Summary = summary; Lesson = lesson; }

    private void Owns(bool carried = true)
    {
        Say("{[h] had a@ [ci].|[h.he] had a@ [ci].|[h] owned a@ [ci] and {loved it very much|was proud of it|took good care of it}.}");
        if (carried) Maybe("{[h.he] took it everywhere.|It was a gift from [h.his] {grandmother|grandfather|mother|father|aunt|uncle}.|[h.he] {used it|looked at it} every day.}");
        Ask("{Who had the [i]?|Whose [i] was it?|Who owned the [i]?|To whom did the [i] belong?}", "The [i] belonged to [h].");
        Ask("{What did [h] have?|What did the [h.kind] have?|What did [h] own?}", "[h] had a@ [ci].");
    }

    private void Feeling(string who, string word, string why, bool say = true)
    {
        if (say) Say($"{{[{who}] was|[{who}] felt}} {word}.");
        Ask($"{{Why was [{who}] {word}?|Why did [{who}] feel {word}?}}", $"[{who}] was {word} because {why}.");
        Ask($"{{How did [{who}] feel?|How was [{who}] feeling?}}", $"[{who}] felt {word} because {why}.");
    }

    private void Ending()
    {
        if (Chance(0.6)) Maybe("{\"What a day!\" said [h].|\"What a good day,\" said [f].|[h] smiled, and [f] smiled too.|They laughed together.|They both laughed.|The two friends smiled.}");
        Say("""
            {From that day on, [h] and [f] were {good|best} friends.|[h] and [f] {stayed|were} friends {for ever|for a long, long time}.
            |That night, [h] went to sleep with a smile.|Then they walked home together, side by side.|After that, [h] and [f] met {every day|every week} [place].
            |And they all went home happy.|It was the best day of the year.|[h] never forgot that day.|And so the day ended well.
            |When the moon came up, [h] and [f] said good night.|That evening, [h] told [h.his] mother all about it.}
            """.Replace("\n", ""));
        Ask("{How did the story end?|What happened at the end?|How does the story end?|What happened in the end?}", _sentences[^1].Replace("And so", "").Replace("And ", ""));
    }

    private void Lost()
    {
        Choose("spot", $"{{{string.Join('|', Words.Spots)}}}");
        Choose("cause", "{there was a hole in [h.his] bag|the wind blew it away|[h.he] put it down and forgot it|it fell down while [h.he] was running|it slipped out of [h.his] hand}");
        Owns();
        Day();
        Say("{Suddenly, the [i] was gone!|All at once, [h.he] saw that the [i] was gone.|But when [h.he] looked for the [i], it was not there.|Then [h.he] noticed that the [i] was missing.}");
        Say("{It was lost because [cause].|[h] had lost it because [cause].}");
        Ask("{How did [h] lose the [i]?|Why was the [i] lost?|Why did [h] lose the [i]?|Why was the [i] gone?}", "The [i] was lost because [cause].");
        Ask("{What did [h] lose?|What was lost?|What was missing?|What did the [h.kind] lose?}", "[h] lost the [ci].");
        Feeling("h", Choose("feel", Sad), "the [i] was {gone|lost}");
        Maybe("{\"Where is my [i]?\" cried [h].|[h] looked {here and there|left and right|everywhere}, but could not find it.|A tear ran down [h.his] cheek.}");
        MeetFriend();
        Say("{\"Why are you so sad?\" asked [f].|\"What is wrong?\" asked [f].|\"Can I help you?\" asked [f].}");
        Say("{\"I have lost my [ci],\" said [h].|\"My [i] is gone,\" {said|answered} [h].}");
        Say("{\"I will help you,\" said [f].|\"Let us look for it together,\" said [f].|\"Do not worry, we will find it,\" said [f].}");
        Maybe("They {looked|searched} {in the bushes|by the stones|along the path|near the trees} first, but it was not there.");
        Say("{At last,|In the end,|Then} {[f] found the [i] [spot]|they found the [i] [spot]|[f] saw something [c] [spot]. It was the [i]}{!|.}");
        Ask("{Where was the [i]?|Where did they find the [i]?|Where was the [i] found?|Where was it in the end?}", "The [i] was [spot].");
        Ask("{Who helped [h]?|Who helped the [h.kind]?|Who helped to find the [i]?|Who found the [i]?}", "[f] the [f.kind] helped [h] to find the [i].");
        Maybe("[h] was " + Happy + " and hugged {[f]|[h.his] new friend}.");
        Maybe("{\"Thank you, [f]!\" said [h].|\"You are a good friend,\" said [h].|\"Thank you for your help,\" said [h].}");
        Ending();
        Tell("[h] lost the [ci], and [f] helped to find it.", "{friends help each other|together we find what we have lost}");
    }

    private void Found()
    {
        Choose("spot", $"{{{string.Join('|', Words.Spots)}}}");
        Day();
        Say("{There, [spot], [h.he] found a@ [ci].|[h] looked around and found a@ [ci] [spot].|Something was lying [spot]. It was a@ [ci].}");
        Ask("{Where was the [i]?|Where did [h] find the [i]?|Where was the [i] found?}", "[h] found the [i] [spot].");
        Ask("{What did [h] find?|What did the [h.kind] find?|What was lying there?}", "[h] found a@ [ci].");
        Say("{\"Whose [i] is this?\" {thought|asked} [h].|\"Somebody must miss it,\" thought [h].|\"I wonder who lost this,\" said [h].}");
        Maybe("[h] wanted to keep it, but [h.he] knew that it belonged to somebody else.");
        MeetFriend("met");
        Say("{[f] was looking for something.|[f] looked very sad.|[f] was crying.}");
        Say("\"I have lost my [i],\" said [f].");
        Ask("{Whose [i] was it?|Who had lost the [i]?|To whom did the [i] belong?|Who lost the [i]?|Who owned the [i]?}", "The [i] belonged to [f].");
        Say("{\"Is it [c]?\" asked [h]. \"Here it is!\"|\"Here it is!\" said [h] and gave it back.|[h] held up the [i]. \"Is this yours?\" [h.he] asked.}".Replace("Is it [c]", HasColour ? "Is it [c]" : "Is it this one"));
        Say("{[f] was " + Happy + " and jumped up and down.|[f] took the [i] and laughed.|\"Yes! Thank you so much!\" said [f].}");
        Ask("{Why was [f] happy?|What made [f] happy?}", "[f] was happy because [h] gave back the [i].");
        Ask("{Why was [f] sad?|Why did [f] cry?}", "[f] was sad because the [i] was lost.");
        Ask("{What did [h] do with the [i]?|What did [h] give to [f]?|What happened to the [i]?}", "[h] gave the [i] back to [f].");
        if (Chance(0.6))
        {
            Choose("treat", $"{{{string.Join('|', Words.Foods)}}}");
            Say("{To say thank you, [f] gave [h] a@ [treat].|[f] shared a@ [treat] with [h] to say thank you.}");
            Ask("{What did [f] give to [h]?|What did [h] get from [f]?|How did [f] say thank you?}", "[f] gave [h] a@ [treat].");
        }
        Ending();
        Tell("[h] found a@ [ci] and gave it back to [f].", "{it is good to give back what we find|being honest makes friends}");
    }

    private void Quarrel()
    {
        Day();
        Say("[h.his] friend [f] the [f.kind] was there too.");
        Say("{They found a@ [ci] in the grass.|There was a@ [ci] on the ground.|In front of them lay a@ [ci].}");
        Ask("{What did they find?|What did [h] and [f] find?}", "They found a@ [ci].");
        Say("{\"It is mine!\" said [h].|\"I saw it first!\" said [h].} {\"No, it is mine!\" said [f].|\"No, I want it!\" cried [f].}");
        Say("{They pulled and pulled.|They {quarreled|shouted} for a long time.|Neither of them wanted to give it up.}");
        Ask("{Why did they quarrel?|Why did [h] and [f] quarrel?|What was the quarrel about?}", "They quarreled because both of them wanted the [i].");
        Say("{Then [h] stopped.|Then [h] became quiet.|After a while, [h] let go.} {\"I am sorry,\" [h.he] said.|\"I do not want to quarrel,\" [h.he] said.}");
        Ask("{Who said sorry?|Who said sorry first?|Who stopped the quarrel?}", "[h] said sorry first.");
        Choose("plan", "{take turns|share it|play with it together|give it to the one who lost it}");
        Say("{\"Let us [plan],\" said [h].|\"We can [plan],\" said [h].}");
        Ask("{What was the idea of [h]?|How did they stop the quarrel?|What did they do in the end?|What did [h] say?}", "[h] said that they could [plan].");
        Say("{[f] nodded. \"That is a good idea,\" {he|she} said.|\"Yes, that is fair,\" said [f].|[f] liked the idea.}".Replace("{he|she}", "[f.he]"));
        Maybe("{Soon they were laughing again.|Now nobody was angry any more.|And the quarrel was over.}");
        Ending();
        Tell("[h] and [f] quarreled about a@ [ci], but then they said sorry.", "{sharing is better than fighting|it is good to say sorry}");
    }

    private void Present()
    {
        Say("{It was [day], and it was the birthday of [f] the [f.kind].|[f] the [f.kind] was the best friend of [h]. On [day], it was [f]'s birthday.}");
        Ask("{Whose birthday was it?|Who had a birthday?}", "It was the birthday of [f].");
        Ask("{Which day was it?|On which day was the birthday?|When was the birthday?}", "The birthday was on [day].");
        Say("{[h] wanted to give [f] something special.|[h] wanted to find a present for [f].|\"What can I give to [f]?\" thought [h].}");
        bool made = Chance(0.5) && !Words.Treasure.Contains(Thing) && !Words.Rare.Contains(Thing);
        if (made)
        {
            Choose("made", Thing is "cart" or "wagon" or "boat" or "sled" or "swing" or "ladder" or "scooter" ? "built" : "made");
            Say("{[h] worked all {day|morning|week} and [made] a@ [ci].|So [h.he] sat down and [made] a@ [ci].}");
            Ask("{Where did the [i] come from?|Who made the [i]?|How did [h] get the [i]?}", "[h] [made] the [i].");
        }
        else
        {
            Say("{[h] went to the market and bought a@ [ci].|At the market, [h.he] saw a@ [ci] and bought it.}");
            Ask("{Where did the [i] come from?|Where did [h] buy the [i]?|How did [h] get the [i]?}", "[h] bought the [i] at the market.");
        }
        Maybe("{[h.he] put it into a box with a ribbon.|[h.he] wrapped it in {paper|a big leaf|a soft cloth}.}");
        Say("{Then [h] went to [f]'s house and knocked on the door.|In the afternoon, [h] carried the present to [f].|When [f] opened the door, [h] stood there with the present.}");
        Say("\"Happy birthday!\" said [h].");
        Say("{[f] opened the present and saw the [ci].|[f] looked inside and found the [ci].}");
        Ask("{What did [h] give to [f]?|What was the present?|What did [f] get?|What did [f] get for [f.his] birthday?}", "[h] gave [f] a@ [ci].");
        Feeling("f", Choose("feel", "{happy|glad|very happy}"), "[h] gave [f.him] a@ [i]");
        Say("{\"It is beautiful!\" said [f]. \"Thank you!\"|\"This is the best present of all,\" said [f].|\"I have always wanted a@ [i],\" said [f].}");
        Maybe("Then they {ate cake|sang songs|danced|played games} until the evening.");
        Ending();
        Tell("[h] gave [f] a@ [ci] for [f.his] birthday.", "{giving makes us happy|a present from the heart is the best present}");
    }

    private void Broken()
    {
        Say("[h] had a friend, a@ [f.kind] named [f].");
        Say("{[f] had a@ [ci].|[f] owned a@ [ci].} {[f.he] loved it very much.|It was very dear to [f.him].|}");
        Ask("{Who had the [i]?|Whose [i] was it?|Who owned the [i]?|To whom did the [i] belong?}", "The [i] belonged to [f].");
        Day();
        Choose("cause", "{[h.he] was not careful|[h.he] dropped it|[h.he] ran too fast and fell on it|[h.he] stepped on it|[h.he] bumped into it}");
        Say("{There, [h] broke the [i] because [cause].|[h] was playing with the [i]. Then it broke because [cause].}");
        Ask("{Who broke the [i]?|What did [h] do?|What broke?|What was broken?}", "[h] broke the [ci].");
        Ask("{How did the [i] break?|Why did the [i] break?|Why was the [i] broken?}", "The [i] broke because [cause].");
        Feeling("h", Choose("feel", "{sorry|scared|worried|sad}"), "the [i] was broken");
        Maybe("{At first, [h] wanted to hide it.|\"Should I hide it?\" thought [h].|[h] did not know what to do.}");
        Say("{But then [h] went to [f] and told the truth.|But [h] was honest and told [f] everything.}");
        Say("{\"I broke your [i]. I am very sorry,\" said [h].|\"I am sorry, [f]. Your [i] is broken,\" said [h].}");
        Ask("{What did [h] tell [f]?|Did [h] tell the truth?|What did [h] say to [f]?|Was [h] honest?}", "[h] told the truth and said sorry.");
        Say("{[f] was not angry.|[f] was quiet for a moment.|[f] took a deep breath.} {\"Thank you for telling me,\" [f.he] said.|\"Things can be mended,\" [f.he] said.}");
        Choose("tool", "{glue|string|tape|a needle and thread|a little hammer|wood and nails}");
        Say("{Together they mended it with [tool].|They worked together and fixed the [i] with [tool].}");
        Ask("{How did they mend the [i]?|How did they fix the [i]?|What did they use?}", "They mended the [i] with [tool].");
        Maybe("{Soon the [i] was as good as new.|Now it looked even better than before.}");
        Ending();
        Tell("[h] broke the [ci] of [f], told the truth, and they mended it together.", "{it is best to tell the truth|being honest is brave}");
    }

    private void Stuck()
    {
        Owns();
        Day();
        Choose("where", "{in a tall tree|on a high roof|between two big rocks|on top of a wall|in a deep hole|in a thorn bush}");
        Choose("cause", "{the wind was strong|[h.he] threw it too high|[h.he] let go of it|a bird carried it off}");
        Say("{Then the [i] got stuck [where] because [cause].|But [cause], and the [i] got stuck [where].|But because [cause], the [i] got stuck [where].}");
        Ask("{Where was the [i] stuck?|Where did the [i] get stuck?|Where was the [i]?}", "The [i] was stuck [where].");
        Ask("{Why did the [i] get stuck?|Why was the [i] stuck?|How did that happen?}", "The [i] got stuck because [cause].");
        Say("{[h] tried and tried, but [h.he] could not reach it.|[h] stretched as far as [h.he] could, but it was too far away.|[h] jumped and reached, but it did not help.}");
        Feeling("h", Choose("feel", Sad), "[h.he] could not reach the [i]", say: Chance(0.6));
        MeetFriend("{met|saw}");
        Choose("way", "{a long stick|a ladder|a rope|a fishing net|[f.his] long arms|a big hook}");
        Say("{\"Let me try,\" said [f].|\"I can help,\" said [f].|\"I have an idea,\" said [f].}");
        Say("{[f] used [way] and got the [i] down.|With [way], [f] reached the [i].|[f] got it back with [way].}".Replace("got the [i] down", "got the [i] out"));
        Ask("{How did [f] get the [i]?|What did [f] use?|How did they get the [i] back?|How did [f] help?}", "[f] used [way] to get the [i].");
        Ask("{Who helped [h]?|Who got the [i] back?|Who helped the [h.kind]?}", "[f] the [f.kind] helped [h].");
        Say("{\"Hurray!\" {cried|called} [h].|[h] clapped {[h.his]|both} hands.|[h] was " + Happy + ".}");
        Ending();
        Tell("The [ci] of [h] got stuck [where], and [f] helped to get it back.", "{it is good to ask for help|friends help each other}");
    }

    private void NewFriend()
    {
        Owns(carried: false);
        Say("{But [h] had no friends yet, because [h.he] was new there.|[h] was new there and did not know anybody.}");
        Ask("{Why did [h] have no friends?|Why was [h] alone?}", "[h] had no friends because [h.he] was new there.");
        Day();
        Say("{A@ [f.kind] named [f] was there too, all alone.|[h.he] saw a@ [f.kind] named [f] who was sitting alone.|Not far away sat a@ [f.kind] named [f].}");
        Say("{[h] was too shy to speak.|[h] did not know what to say.|\"Should I say hello?\" thought [h].}");
        Say("{Then [h.he] held up the [ci] and smiled.|Then [h] took the [ci], went closer and said hello.}");
        Say("{\"Would you like to play with me?\" asked [h].|\"Look what I have! Do you want to try it?\" asked [h].}");
        Say("{\"Yes, I would love to!\" said [f].|\"Oh yes, please!\" said [f].|[f] smiled and nodded.}");
        Choose("game", "{hide and seek|pirates|catch|treasure hunters|king and queen|a guessing game}");
        Say("{They played [game] until {the sun went down|it got dark|it was time to go home}.|All afternoon they played [game].}");
        Ask("{What did they play?|What game did they play?|Which game did [h] and [f] play?}", "They played [game].");
        Ask("{How did [h] make a friend?|How did [h] and [f] become friends?|What did [h] do with the [i]?}", "[h] showed [f] the [i] and asked [f.him] to play.");
        Feeling("h", "happy", "[h.he] had found a friend", say: Chance(0.7));
        Ending();
        Tell("[h] was alone, but the [ci] helped [h.him] to make friends with [f].", "{a kind word can make a friend|it is good to say hello}");
    }

    private void Lend()
    {
        Say("{[h] wished for a@ [i].|[h] did not have a@ [i], but [h.he] wanted one very much.}");
        Ask("{What did [h] want?|What did [h] wish for?}", "[h] wanted a@ [i].");
        Say("[h.his] {neighbour|friend} [f], a@ [f.kind], had a@ [ci].");
        Ask("{Who had the [i]?|Whose [i] was it?|Who owned the [i]?}", "The [i] belonged to [f].");
        Day();
        Say("{\"May I use your [i] for one day?\" asked [h].|\"Could I borrow your [i], please?\" asked [h].}");
        Say("{\"Yes, but please be careful with it,\" said [f].|\"Of course,\" said [f]. \"But bring it back before dark.\"}");
        Ask("{What did [h] ask [f]?|What did [h] borrow?|What did [f] lend to [h]?}", "[h] borrowed the [ci] from [f].");
        Say("{[h] was very careful with it.|[h] used it all day and took good care of it.|All day long, [h] kept the [i] safe.}");
        bool rain = Chance(0.5);
        if (rain)
        {
            Say("{When it began to rain, [h] put the [i] under [h.his] coat.|Then it began to rain, and [h] hid the [i] under [h.his] coat to keep it dry.}");
            Ask("{How did [h] keep the [i] dry?|Where did [h] put the [i]?|What happened when it rained?}", "[h] put the [i] under [h.his] coat to keep it dry.");
        }
        Say("{In the evening, [h] brought the [i] back.|Before it got dark, [h] gave the [i] back to [f].}");
        Ask("{What did [h] do in the evening?|Did [h] bring it back?|Did [h] give the [i] back?}", "Yes, [h] brought the [i] back in the evening.".Replace("Yes, ", ""));
        Say("{\"You kept your word,\" said [f]. \"You may borrow it again.\"|\"Thank you for being so careful,\" said [f].}");
        Ending();
        Tell("[h] borrowed the [ci] from [f], took care of it and brought it back.", "{we should take care of what we borrow|it is good to keep our word}");
    }

    private void Race()
    {
        Day();
        Say("[h] and [f] the [f.kind] wanted to {run|have} a race.");
        Choose("goal", "{the old oak|the red gate|the big stone|the bridge|the well|the end of the path}");
        Say("{\"The winner gets this [ci],\" said the {owl|judge|miller|old farmer}.|The prize was a@ [ci].} {They were to run|The race went} to [goal].");
        Ask("{What was the prize?|What did the winner get?|What could they win?}", "The prize was a@ [ci].");
        Ask("{Where did they run?|Where did the race end?|How far did they run?}", "They ran to [goal].");
        Say("{\"One, two, three, go!\"|\"Ready, steady, go!\"} {Off they went.|They ran as fast as they could.}");
        bool heroWins = Chance(0.5);
        Set("w", heroWins ? this["h"] : this["f"]);
        Set("l", heroWins ? this["f"] : this["h"]);
        Set("l.he", heroWins ? this["f.he"] : this["h.he"]);
        Choose("cause", "{tripped over a root|stopped to drink|looked back too often|took the wrong path|stopped to rest|slipped in the mud}");
        Say("{At first, [l] was in front.|[l] was very fast at first.} {But then [l.he] [cause].|Then [l] [cause].}");
        Say("{So [w] won the race.|[w] ran past and won.|[w] reached [goal] first and won.}");
        Ask("{Who won the race?|Who won?|Who was the winner?|Who was faster?}", "[w] won the race.");
        Ask("{Who lost the race?|Who lost?}", "[l] lost the race because [l.he] [cause].");
        Ask("{Why did [l] lose?|Why did [w] win?}", "[w] won because [l] [cause].");
        Ask("{Who got the [i]?|Who got the prize?}", "[w] got the [i].");
        Say("{[w] got the [i], but [l] was not sad.|[w] was proud and held up the [i].}");
        Say("{\"Well done!\" said [l].|\"You ran very well,\" said [l].} {\"Let us share it,\" said [w].|\"You may play with it too,\" said [w].|\"Next time you may win,\" said [w].}");
        Ending();
        Tell("[h] and [f] ran a race for a@ [ci], and [w] won.", "{it is fun to play fair|a good friend is better than a prize}");
    }

    private void Search()
    {
        Say("{[h] had heard of a@ [ci] that was hidden somewhere [place].|An old story said that a@ [ci] was hidden somewhere [place].}");
        Ask("{What was hidden?|What did [h] look for?|What did [h] want to find?}", "[h] looked for a@ [ci].");
        Ask("{Where was it hidden?|Where did [h] look?|Where was the [i]?|Where did the story happen?}", "The [i] was hidden [place].");
        Say("{One [weather] [time], [h.he] set out to find it.|On a@ [weather] [time], [h.he] packed a little bag and set out.}");
        Ask("{What was the weather like?|How was the weather?}", "It was [weather].");
        MeetFriend("met");
        Say("{\"Where are you going?\" asked [f].|\"May I come with you?\" asked [f].} {\"I am looking for a@ [ci],\" said [h].|\"Come with me,\" said [h]. \"I am looking for a@ [ci].\"}");
        Choose("trouble", "{a wide stream|a dark cave|a high wall|a deep ditch|a steep hill|a thick hedge}");
        Choose("how", "{held hands|helped each other|were brave|went slowly, step by step|sang a song}");
        Say("{On the way, they came to [trouble].|Soon [trouble] was in their way.}");
        Say("They [how], and so they got {past it|to the other side}.");
        Ask("{What was in their way?|What did they come to?|What was the trouble?}", "They came to [trouble].");
        Ask("{How did they get to the other side?|How did they get past it?|What did they do then?}", "They [how].");
        Choose("spot", $"{{{string.Join('|', Words.Spots)}}}");
        Say("{At last, there it was: the [ci], [spot].|And then they saw the [ci] [spot].|In the end, they found the [i] [spot].}");
        Ask("{Where did they find the [i]?|Where was the [i] in the end?|Where did they find it?}", "They found the [i] [spot].");
        Ask("{Who went with [h]?|Who came with [h]?|Who helped [h]?}", "[f] the [f.kind] went with [h].");
        Maybe("{\"We did it!\" {cried|called} [f].|\"It is even nicer than in the story,\" said [h].|They danced with joy.}");
        Ending();
        Tell("[h] and [f] went to look for a@ [ci] and found it [spot].", "{together we are strong|it is easier to be brave with a friend}");
    }

    // ---- things that help ----

    private void Helps(string trouble, string how)
    {
        Ask("{How did [h] help [f]?|How did [h] help?|What did [h] do?|How did the [i] help?}", how);
        Ask("{What was wrong with [f]?|What was the problem?|Why did [f] need help?}", trouble);
        Ask("{Who helped [f]?|Who helped the [f.kind]?|Who was a good friend?}", "[h] the [h.kind] helped [f].");
        Say("{\"Thank you, [h]!\" said [f].|\"Thank you for your help,\" said [f].|\"You are very kind,\" said [f].}");
        Feeling("f", Choose("feel", "{happy|glad|thankful}"), "[h] helped [f.him]", say: Chance(0.5));
        Ending();
    }

    private void Light()
    {
        Owns();
        Say("{One evening, it was very dark [place].|One night, the moon was hidden and it was dark [place].}");
        Say("{[h] heard somebody crying. It was a@ [f.kind] named [f].|Far away, a@ [f.kind] named [f] called for help.}");
        Say("{\"I cannot see the way home!\" said [f].|\"It is so dark, and I am lost,\" said [f].}");
        Ask("{Where did it happen?|Where was it dark?}", "It was dark [place].");
        Say("{[h] lit the [ci] and held it up.|[h] took the [i] and lit it.} {A warm light shone all around.|Now they could see the path.|Its light was warm and bright.}");
        Say("{[f] followed the light.|Together they walked through the dark.} {Soon [f] was home.|Step by step, they found the way.}");
        Tell("[f] was lost in the dark, and [h] showed the way with the [ci].", "{a little light can help a lot|friends show each other the way}");
        Helps("[f] was lost in the dark.", "[h] lit the [i] and showed [f] the way home.");
    }

    private void Sound()
    {
        Owns();
        Say("{One foggy [time], [h] was [place].|One [time], thick fog lay over the land, and [h] was [place].}");
        Ask("{What was the weather like?|How was the weather?}", "It was foggy.");
        Ask("{Where was [h]?|Where did it happen?}", "[h] was [place].");
        Say("[h.his] friend [f], a@ [f.kind], {was lost in the fog|could not find the way back}.");
        Say("{\"[f]! Where are you?\" called [h]. But nobody answered.|[h] called and called, but [f] was too far away.}");
        Say("{Then [h] had an idea. [h.he] played the [ci] as loudly as [h.he] could.|Then [h] took the [ci] and made a loud sound.}".Replace("played the [ci]", Thing == "bell" ? "rang the [ci]" : Thing is "whistle" or "horn" or "trumpet" ? "blew the [ci]" : "played the [ci]"));
        Say("{[f] heard the [i] and followed the sound.|Far away, [f] heard it and came closer and closer.} {\"There you are!\" said [h].|\"I heard your [i]!\" said [f].}");
        Tell("[f] was lost in the fog, and [h] called [f.him] back with the [ci].", "{a good idea can help a friend|we should not give up when a friend is lost}");
        Helps("[f] was lost in the fog.", "[h] made a loud sound with the [i], and [f] followed the sound.");
    }

    private void Warm()
    {
        Owns();
        Say("{One cold [time], [h] was [place].|On a@ {snowy|cold} [time], [h] was [place].}");
        Ask("{Where was [h]?|Where did it happen?}", "[h] was [place].");
        Say("{There [h.he] met a@ [f.kind] named [f].|A@ [f.kind] named [f] was sitting in the snow.} {[f] was very cold.|[f] was shivering.|[f] had cold ears and cold feet.}");
        Say("{\"I am so cold,\" said [f].|\"I have nothing to keep me warm,\" said [f].}");
        Say("{[h] took the [ci] and put it around [f].|[h] wrapped [f] in the [ci].|\"Take my [i],\" said [h] and put it around [f].}");
        Say("{Soon [f] was warm again.|After a while, [f] stopped shivering.}");
        Maybe("Then they drank hot {tea|milk|soup} together.");
        Tell("[f] was cold, and [h] gave [f.him] the [ci] to keep warm.", "{sharing keeps everybody warm|a kind heart is warmer than the sun}");
        Helps("[f] was very cold.", "[h] gave [f] the [i] to keep [f.him] warm.");
    }

    private void Dry()
    {
        Owns();
        Say("One [time], [h] was [place]. {Dark clouds came, and it began to rain.|Suddenly, it began to rain very hard.}");
        Ask("{What was the weather like?|How was the weather?}", "It was rainy.");
        Ask("{Where was [h]?|Where did it happen?}", "[h] was [place].");
        Say("{A@ [f.kind] named [f] stood under a tree and was all wet.|[h.he] saw a@ [f.kind] named [f] who was wet from head to toe.}");
        Say("{[h] opened the [ci].|[h] put up the [ci].} {\"Come in, there is room for two,\" said [h].|\"Come here, it is dry,\" said [h].}");
        Say("{They sat under it and listened to the rain.|Now they were both dry.|The rain fell, but they stayed dry.}");
        Maybe("When the rain stopped, they saw a {big|beautiful} rainbow.");
        Tell("[f] was wet in the rain, and [h] shared the [ci].", "{there is always room for a friend|sharing is kind}");
        Helps("[f] was wet because it rained.", "[h] shared the [i] with [f], and they stayed dry.");
    }

    private void Pull()
    {
        Owns(carried: false);
        Day();
        Choose("hole", "{a deep hole|an old well|a deep pit|a ditch}");
        Say("{\"Help! Help!\" somebody called.|[h] heard a voice that called for help.} A@ [f.kind] named [f] had fallen into [hole].");
        Ask("{Where was [f]?|What happened to [f]?|Where did [f] fall?}", "[f] had fallen into [hole].");
        Say("{\"I will help you!\" called [h].|\"Wait, I am coming!\" called [h].} [h] {ran home and got|fetched} the [ci].");
        Say("{[h] let it down, and [f] climbed up.|[f] held on to it and climbed out.}");
        Tell("[f] fell into [hole], and [h] helped with the [ci].", "{we should help when somebody calls|a quick helper is a good friend}");
        Helps("[f] had fallen into [hole].", "[h] used the [i] to get [f] out.");
    }

    private void Carry()
    {
        Owns(carried: false);
        Day();
        Choose("load", "{apples|nuts|pears|mushrooms|potatoes|shells|books|pumpkins}");
        Say("{There [h.he] met a@ [f.kind] named [f].|A@ [f.kind] named [f] came along the path.} {[f] had so many [load] that they kept falling down.|[f] wanted to bring [load] home, but there were too many.}");
        Ask("{What did [f] have?|What did [f] want to carry?|What was in the [i]?}", "[f] had many [load].");
        Say("{\"I cannot carry all these [load],\" said [f].|\"They are too heavy for me,\" said [f].}");
        Say("{\"Put them into my [i],\" said [h].|\"We can use my [i],\" said [h].} They filled the [ci] with the [load].");
        Say("{Together they carried it home.|Then they brought it to [f]'s house.}");
        Maybe("[f] gave [h] some of the [load].");
        Tell("[f] had too many [load] to carry, and [h] helped with the [ci].", "{heavy things are light when we carry them together|helping is easy when we do it together}");
        Helps("[f] had too many [load] to carry.", "[h] put the [load] into the [i] and carried them home with [f].");
    }

    private void Cheer()
    {
        Owns();
        Day();
        Choose("why", "{[f.his] brother was far away|[f.he] had to stay in bed|nobody had time to play|[f.he] had lost a game|it was [f.his] last day there|[f.his] foot hurt}");
        Say("{There [h.he] met a@ [f.kind] named [f].|[h.he] saw a@ [f.kind] named [f].} {[f] was sad because [why].|[f] did not smile, because [why].}");
        Ask("{Why was [f] sad?|Why did [f] not smile?|Why was [f] unhappy?}", "[f] was sad because [why].");
        Say("{\"I know something that will cheer you up,\" said [h].|[h] thought for a moment and had an idea.} {[h.he] took out the [ci].|[h.he] got the [ci] and showed it to [f].}");
        Say("{They played with the [i] {all day long|until the evening|for an hour}.|First [h] played with it, and then [f] had a turn.}");
        Say("{Soon [f] began to laugh.|After a while, [f] smiled again.|[f] forgot all about being sad.}");
        Tell("[f] was sad, and [h] cheered [f.him] up with the [ci].", "{playing together makes us happy|a friend can make a sad day bright}");
        Helps("[f] was sad because [why].", "[h] played with [f] and the [i], and [f] was happy again.");
    }

    private void Read()
    {
        Owns(carried: false);
        Say("One evening, [h.his] friend [f], a@ [f.kind], could not sleep.");
        Choose("why", "{the wind was loud|the moon was too bright|[f.he] had a bad dream|an owl was calling|[f.he] was afraid of the dark}");
        Say("{[f] was awake because [why].|\"I cannot sleep,\" said [f]. It was because [why].}");
        Ask("{Why could [f] not sleep?|Why was [f] awake?}", "[f] could not sleep because [why].");
        Choose("about", "{a brave sailor|a sleepy bear|the moon and the stars|a golden fish|a far island|a king who lost his crown}");
        Say("{[h] took the [ci] and began to read.|\"I will read to you,\" said [h] and took the [ci].} It told of [about].");
        Ask("{What did the [i] tell of?|What was the [i] about?|What did [h] read about?}", "The [i] told of [about].");
        Say("{[f] listened, and {soon [f.his] eyes closed|before long [f.he] was fast asleep}.|Slowly [f] closed [f.his] eyes and fell asleep.}");
        Say("{\"Good night,\" whispered [h].|[h] closed the [i] and smiled.|\"Sleep well, [f],\" whispered [h].}");
        Ask("{How did [h] help [f]?|How did [h] help?|What did [h] do?|How did [f] fall asleep?}", "[h] read to [f] from the [i] until [f.he] fell asleep.");
        Ask("{Who helped [f]?|Who could not sleep?}", "[f] could not sleep, and [h] helped [f.him].");
        Maybe("{In the morning, [f] said thank you.|The next morning, they had breakfast together.}");
        Say("{From that day on, [h] read to [f] every evening.|And outside, the stars were shining.|It was a quiet night.}");
        Ask("{How did the story end?|What happened at the end?}", _sentences[^1].Replace("And outside", "Outside"));
        Tell("[f] could not sleep, and [h] read to [f.him] from the [ci].", "{a good story helps us sleep|friends take care of each other}");
    }

    // ---- things to eat ----

    private void ShareFood()
    {
        Say("{[h] had a@ [ci] for lunch.|[h]'s mother had made a@ [ci] for [h.him].|In [h.his] bag, [h] had a@ [ci].}");
        Ask("{What did [h] have?|What did [h] eat?|What food did [h] have?}", "[h] had a@ [ci].");
        Day();
        Say("{Just as [h.he] wanted to eat, a@ [f.kind] named [f] came along.|Then a@ [f.kind] named [f] sat down next to [h.him].}");
        Choose("why", "{[f.he] had lost [f.his] lunch|[f.he] had not eaten all day|a crow had taken [f.his] bread|[f.he] had given [f.his] food away}");
        Say("{[f] was hungry because [why].|[f] looked at the [i] with big eyes, because [why].}");
        Ask("{Why was [f] hungry?|What was wrong with [f]?}", "[f] was hungry because [why].");
        Say("{\"Are you hungry?\" asked [h]. \"Yes, very,\" said [f].|\"I am so hungry,\" said [f].}");
        Say("{[h] cut the [i] in two and gave one half to [f].|\"Let us share,\" said [h] and gave half of the [i] to [f].}");
        Ask("{What did [h] do?|What did [h] share?|How did [h] help [f]?|What did [h] give to [f]?}", "[h] gave half of the [i] to [f].");
        Say("{It tasted {wonderful|very good|sweet}.|They ate together and talked.|They sat in the sun and ate.}");
        Feeling("f", "happy", "[h] shared the [i]", say: Chance(0.5));
        Maybe("\"It tastes better when we share,\" said [h].");
        Ending();
        Tell("[f] was hungry, and [h] shared a@ [i] with [f.him].", "{food tastes better when we share it|sharing is kind}");
    }

    private void Bake()
    {
        Choose("who", "{grandmother|grandfather|mother|father|aunt|uncle}");
        Say("{One [weather] [time], [h] and [h.his] [who] wanted to make a@ [ci].|On [day], [h] wanted to make a@ [ci] with [h.his] [who].}");
        Ask("{What did [h] want to make?|What did they make?}", "[h] wanted to make a@ [ci].");
        Ask("{Who made the [i] with [h]?|With whom did [h] make the [i]?}", "[h] made it with [h.his] [who].");
        Choose("missing", "{honey|sugar|butter|milk|flour|salt}");
        Say("{But there was no [missing] in the kitchen.|But the [missing] was all gone.|\"Oh no, we have no [missing]!\" said [h].}");
        Ask("{What was missing?|What did they not have?|What did they need?}", "They had no [missing].");
        Say("{So [h] ran to [f], a@ [f.kind] who lived next door.|So [h] knocked on the door of [f], a@ [f.kind].} \"{May I have some [missing], please?|Do you have some [missing] for us?}\" asked [h].");
        Say("{\"Of course,\" said [f] and gave [h.him] a {cup|jar|bag} of [missing].|[f] had plenty of [missing] and gave [h.him] some.}");
        Ask("{Who gave [h] the [missing]?|Who helped [h]?|Where did [h] get the [missing]?}", "[f] the [f.kind] gave [h] some [missing].");
        Say("{Now they could make the [i].|Soon the whole house smelled good.|They mixed and stirred, and soon the [i] was ready.}");
        Say("{[h] brought the biggest piece to [f].|Then [h] asked [f] to come and eat with them.}");
        Ask("{How did [h] say thank you?|What did [h] do for [f]?}", "[h] shared the [i] with [f].");
        Ending();
        Tell("[h] made a@ [i] with [h.his] [who], and [f] helped with some [missing].", "{good neighbours help each other|sharing makes everything sweeter}");
    }
}
